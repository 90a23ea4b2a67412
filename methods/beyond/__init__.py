"""Methods beyond those of the two papers; `methods.available()` finds them like the others."""
