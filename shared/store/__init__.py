"""All SQL, one module per table family. Functions take `conn` first and never commit: the caller's transaction does."""
