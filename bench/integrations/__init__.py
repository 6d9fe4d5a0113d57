"""Each integration beside the store that its framework brings."""
