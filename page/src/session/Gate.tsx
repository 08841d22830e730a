// Before the page: a server with keys is asked for nothing until one was given. The key goes to the
// server once; a cookie that scripts cannot read stands for it from then on.

import { Alert, Button, Card, Center, Loader, PasswordInput, Stack, Text, Title } from "@mantine/core";
import { type FormEvent, type ReactNode, useCallback, useEffect, useState } from "react";

import { api, NO_KEY, Refusal } from "../api/client";
import type { Session } from "../api/types";

interface Props {
  children: (signOut: (() => void) | null) => ReactNode;
}

export function Gate({ children }: Props) {
  const [session, setSession] = useState<Session | null>(null);
  const [error, setError] = useState<string | null>(null);
  const ask = useCallback(() => {
    api.session().then(
      (told) => {
        setSession(told);
        setError(null);
      },
      (reason: Error) => setError(reason.message),
    );
  }, []);
  useEffect(() => {
    ask();
    window.addEventListener(NO_KEY, ask);
    return () => window.removeEventListener(NO_KEY, ask);
  }, [ask]);

  if (session === null)
    return (
      <Center component="main" mih="60vh" p="md">
        {error === null ? (
          <Loader aria-label="Loading" />
        ) : (
          <Alert color="red" role="alert" title="Safelight">
            {error} <Button onClick={ask}>Try again</Button>
          </Alert>
        )}
      </Center>
    );
  if (!session.known) return <KeyPrompt onOpened={setSession} />;
  const signOut = () => {
    api.close().then(setSession, (reason: Error) => setError(reason.message));
  };
  return children(session.needed ? signOut : null);
}

/** Why a key did not open the page. */
function said(reason: Error): string {
  if (!(reason instanceof Refusal)) return reason.message;
  if (reason.status === 401) return "That is not a key of this server.";
  if (reason.status === 429 && reason.retryAfter !== null)
    return `Too many wrong keys came from here. Try again in ${reason.retryAfter} seconds.`;
  return reason.message;
}

function KeyPrompt({ onOpened }: { onOpened: (session: Session) => void }) {
  const [key, setKey] = useState("");
  const [error, setError] = useState<string | null>(null);
  const [busy, setBusy] = useState(false);
  const send = async (event: FormEvent) => {
    event.preventDefault();
    setBusy(true);
    setError(null);
    try {
      onOpened(await api.open(key));
    } catch (reason) {
      setError(said(reason as Error));
      setBusy(false);
    }
  };
  return (
    <Center component="main" mih="70vh" p="md">
      <Card withBorder w="100%" maw={420} p="lg">
        <form onSubmit={(event) => void send(event)}>
          <Stack>
            <Title order={1} size="h3" c="var(--mantine-primary-color-filled)">
              Safelight
            </Title>
            <Text size="sm">
              This server draws for those who have a key. Whoever runs it gave it with --api-key.
            </Text>
            <PasswordInput
              label="Key"
              value={key}
              onChange={(event) => setKey(event.currentTarget.value)}
              error={error}
              autoComplete="current-password"
              required
              withAsterisk={false}
              data-autofocus
              autoFocus
            />
            <Button type="submit" loading={busy} disabled={key === ""}>
              Come in
            </Button>
          </Stack>
        </form>
      </Card>
    </Center>
  );
}
