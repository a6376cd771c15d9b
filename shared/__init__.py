"""What every service knows: the nouns, the wire, the tables, the broker's port. Imports nothing from services."""
