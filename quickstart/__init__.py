"""The quickstart's small world: problems, a tiny base model that errs on half of them, and its maker."""
