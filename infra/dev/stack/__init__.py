"""Tidemark's surroundings on one machine: a Kafka broker, a PostgreSQL server and the three programs, all private.

`infra/dev/up` and the tests use the same classes: `kafka.Kafka`, `postgres.Postgres` and `programs.Programs` start
servers in a directory that they are given, on loopback ports that they are given, and `process.Process` is how each of
them is started, found again and ended. Only the standard library is used: this is what runs on a bare machine.
"""
