"""Files of a data set: where they lie, which belong together, lists, archives."""
