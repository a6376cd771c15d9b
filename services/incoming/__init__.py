"""The gateway for external POSTs: nothing stands here yet, and no command starts it."""
