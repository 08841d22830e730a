import "@mantine/core/styles.css";
import "./page.css";

import { createTheme, MantineProvider } from "@mantine/core";
import { StrictMode } from "react";
import { createRoot } from "react-dom/client";

import { App } from "./App";
import { Gate } from "./session/Gate";

// A darkroom's light is red: the one light under which paper may be looked at.
const theme = createTheme({
  primaryColor: "red",
  primaryShade: { light: 9, dark: 8 },
  respectReducedMotion: true,
});

createRoot(document.getElementById("root")!).render(
  <StrictMode>
    <MantineProvider theme={theme} defaultColorScheme="auto">
      <Gate>{(signOut) => <App signOut={signOut} />}</Gate>
    </MantineProvider>
  </StrictMode>,
);
