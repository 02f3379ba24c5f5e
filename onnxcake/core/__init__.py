"""Hold what every room may use and what knows no room: errors, files, randomness, progress."""
