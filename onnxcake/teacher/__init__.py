"""Open a teacher's file: what goes in, what comes out, whether it is alive, its answers and gradients."""
