"""The papers' tables as rows, what they are at each scale, the runs behind them, and what came out."""
