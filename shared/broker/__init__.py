"""The broker behind one small port; the URL picks the adapter."""
