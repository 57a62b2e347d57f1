"""Interactions in: read, cleaned, indexed, and split into histories and queries.

sources -> readers -> cleaning -> vocabulary -> interactions -> splits -> queries

- `sources`: a data set by name or path; `cache` fetches known ones, `synthetic` makes one up
- `readers`: every file format; `lines`, `columns`, `delimited`, `parquet` serve it
- `events`: raw columns as a file holds them; `content`: titles and categories of items
- `cleaning`: what counts as an event, and a report of what was left out
- `vocabulary`: ids and indices with a digest both ends compare
- `interactions`: the table every room reads; `profile`: what it looks like
- `splits`, `queries`: evaluation protocols and what is asked
"""
