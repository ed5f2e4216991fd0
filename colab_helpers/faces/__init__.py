"""Detection, selection and modification of faces."""
