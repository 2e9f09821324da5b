"""The clustering service: requests for tables in, tables out."""
