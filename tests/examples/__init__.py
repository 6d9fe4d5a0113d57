"""The programs in examples/, each run as its README says, on both databases."""
