"""What a host can do, and what its connections are: asked, told and shown."""
