"""Write what people read: tables, the leaderboard page, figures, reports and the viewer."""
