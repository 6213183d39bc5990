"""What is to be run: the papers' tables as rows, with the numbers they print, and what a row is at each scale."""
