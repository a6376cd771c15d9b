"""The processes. They meet in the database and on the broker, never by import."""
