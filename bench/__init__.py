"""What produces every figure in the README: quality, size and time, from real files. Never shipped to users."""
