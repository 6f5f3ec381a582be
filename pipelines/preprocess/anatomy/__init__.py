"""The T1w image: made ready, its brain, tissues, and its place in standard spaces."""
