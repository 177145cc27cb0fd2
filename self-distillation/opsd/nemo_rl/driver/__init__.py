"""What runs in the driver process: the engine, its worker groups, configuration and environment."""
