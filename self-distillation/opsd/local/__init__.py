"""ENGINE=local: one process, torch and transformers, vLLM or transformers for sampling."""
