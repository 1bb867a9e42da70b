#!/bin/sh
# Run once by the database's image when its volume is new: makes the role that owns everything of Tidemark's, and its
# database. `tidemark-consumer migrate` makes the two other roles and gives them their passwords.
set -eu
psql -v ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname postgres -v password="$OWNER_PASSWORD" <<'SQL'
create role tidemark_owner login createrole password :'password';
create database tidemark owner tidemark_owner encoding 'UTF8' locale 'C' template template0;
SQL
