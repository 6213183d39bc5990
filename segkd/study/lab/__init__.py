"""What notebooks show of trained networks, and what readers try on their own."""
