"""SQLite through the standard library's sqlite3. `store`, `async_store` and `migrations` import it."""
