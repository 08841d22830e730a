"""The page that people see. `static/` is built from the sources in `page/` of the repository."""
