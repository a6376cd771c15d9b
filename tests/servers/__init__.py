"""PostgreSQL and RabbitMQ for the suite: found in the environment, in Docker, installed, or made on the spot."""

from tests.servers.postgresql import OwnPostgreSQL, own_postgresql, postgresql_for_tests
from tests.servers.processes import CannotHave, free_port, last_lines
from tests.servers.rabbitmq import OwnRabbitMQ, delete_by_prefix, own_rabbitmq, rabbitmq_for_tests

__all__ = [
    "CannotHave",
    "OwnPostgreSQL",
    "OwnRabbitMQ",
    "delete_by_prefix",
    "free_port",
    "last_lines",
    "own_postgresql",
    "own_rabbitmq",
    "postgresql_for_tests",
    "rabbitmq_for_tests",
]
