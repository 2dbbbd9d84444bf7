"""Runnable claims: each study reproduces a table or figure and writes its result beside itself."""
