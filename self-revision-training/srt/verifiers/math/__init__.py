"""Math: the boxed answer, compared by math-verify in worker processes."""
