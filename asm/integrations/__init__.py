"""Stores for agent frameworks: each module keeps the sessions of one framework in a store of asm.

A module implements the framework's own protocol with the public methods of a store, imports nothing but its
framework, and needs the extra of its name. The store is lent: nothing here opens or closes one.
"""
