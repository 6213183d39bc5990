"""How things are drawn, from frames and maps alone: every figure is returned closed, so that the last line of a cell shows it once."""
