"""The OpenAI wire: its bodies to domain types, results to its answers, its errors."""
