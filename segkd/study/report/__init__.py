"""From notebooks to pages: run, render, freeze, and the site's first page. Nothing here computes a statistic."""
