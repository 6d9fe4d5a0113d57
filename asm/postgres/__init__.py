"""PostgreSQL through psycopg 3. `store`, `async_store` and `migrations` import it when a DSN asks for it."""
