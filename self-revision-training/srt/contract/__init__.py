"""The contracts both phases share: token layout, control phrases, records, seeds, provenance, paths."""
