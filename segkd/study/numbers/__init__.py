"""What came out: the runs behind a table's rows, their results, statistics and costs, and the table as a page shows it."""
