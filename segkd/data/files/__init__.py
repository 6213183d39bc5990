"""Files of a data set: where they lie, which belong together, their bytes as arrays, raw values and colours as train ids."""
