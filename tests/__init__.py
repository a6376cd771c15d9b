"""Tests. `servers` finds or makes PostgreSQL and RabbitMQ, `waiting` holds the deadlines."""
