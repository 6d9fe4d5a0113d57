"""The operations of a store, as values: which query, its values, how to read its rows.

Nothing here knows which database answers or whether the answer is awaited. The stores, `formats` and
`maintenance` import it.
"""
