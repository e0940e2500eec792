CREATE INDEX sessions_empty ON sessions (ended_at) WHERE state IN ('ended', 'expired') AND bytes_up = 0 AND bytes_down = 0;
CREATE INDEX refusals_age ON refusals (created_at);
