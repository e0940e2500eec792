DROP INDEX sessions_user;
