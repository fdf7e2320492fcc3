"""What is durable: database, migrations, files."""
