"""The backends that come with kpstore; each is imported only when it is chosen."""
