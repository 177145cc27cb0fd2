"""The quickstart's own small world: problems, a tiny base model that errs on half of them, and their maker."""
