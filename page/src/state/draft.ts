// The settings that are being edited: only those that were set; all else is the server's default.

import { useCallback, useEffect, useState } from "react";

import type { Settings } from "../api/types";

const PLACE = "safelight.draft";

/** The value at a dotted name, or undefined. */
export function at(settings: Settings, name: string): unknown {
  return name
    .split(".")
    .reduce<unknown>((place, part) => (isGroup(place) ? place[part] : undefined), settings);
}

/** The settings with a value at a dotted name; undefined takes it away, and groups that are empty. */
export function put(settings: Settings, name: string, value: unknown): Settings {
  const [first, ...rest] = name.split(".") as [string, ...string[]];
  const others = { ...settings };
  if (rest.length === 0) {
    if (value === undefined) delete others[first];
    else others[first] = value;
    return others;
  }
  const inner = others[first];
  const group = put(isGroup(inner) ? inner : {}, rest.join("."), value);
  if (Object.keys(group).length === 0) delete others[first];
  else others[first] = group;
  return others;
}

export function isGroup(value: unknown): value is Settings {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

export interface Draft {
  settings: Settings;
  set: (name: string, value: unknown) => void;
  replace: (settings: Settings) => void;
}

export function useDraft(): Draft {
  const [settings, setSettings] = useState<Settings>(stored);
  useEffect(() => {
    try {
      localStorage.setItem(PLACE, JSON.stringify(settings));
    } catch {
      // private windows may keep nothing: the draft then ends with the page
    }
  }, [settings]);
  const set = useCallback((name: string, value: unknown) => {
    setSettings((known) => put(known, name, value));
  }, []);
  return { settings, set, replace: setSettings };
}

function stored(): Settings {
  try {
    const found: unknown = JSON.parse(localStorage.getItem(PLACE) ?? "{}");
    if (isGroup(found)) return found;
  } catch {
    // nothing was kept, or something else wrote there
  }
  return {};
}
