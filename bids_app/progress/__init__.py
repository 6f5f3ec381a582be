"""How far a call is, for the eye: on a terminal a live view, elsewhere one line a stage."""
