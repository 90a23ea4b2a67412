"""Methods beside and after the two papers, found by `methods.available()` as the others are."""
