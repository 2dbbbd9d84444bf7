"""A learned density of molecular configurations, judged by the exact one."""
