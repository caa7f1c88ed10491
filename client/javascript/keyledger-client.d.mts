export declare const VERSION: string
/** What `message` says for each code. */
export declare const REASONS: Record<string, string>

export type State =
  | 'valid' // the server said so, or nothing has spoken against the license file since
  | 'grace' // the server was not reached; the license file counts, until `graceEnd`
  | 'denied' // the server said no, signed; only it can say yes again
  | 'unreachable' // there is no verdict, neither yes nor no
  | 'unlicensed' // no key was entered

/** The answer to every verb. Times are RFC 3339 in UTC, as `2026-12-20T12:00:00Z`. */
export interface Result {
  /** May the app run? */
  valid: boolean
  /** Why, in one of five words. */
  state: State
  /** The server's code (VALID, EXPIRED, TOO_MANY_MACHINES …), or one of REASONS (NO_CONNECTION, CLOCK_BACK …). */
  code: string
  /** For your log. */
  detail: string
  /** For people, in English; translate by `code`. */
  message: string
  /** `online`: the server said so just now; `offline`: from what is kept. */
  source: 'online' | 'offline'
  licenseId: string | null
  productName: string | null
  tier: string | null
  features: string[]
  /** When the license ends; null: never, or not known. */
  expiry: string | null
  /** Until when it runs without the server; null: for ever, or not at all. */
  graceEnd: string | null
  seatsUsed: number | null
  maxSeats: number | null
  /** A seat was taken just now. */
  activated: boolean
  /** This computer's clock is wrong: worth a word to the customer. */
  clockOff: boolean
  /** Seconds for which the server wants to be left alone. */
  retryAfter: number | null
  /** A page on which the customer can help himself. */
  helpUrl: string | null
}

/** What this kit asks of a system. Only tests give another one. */
export interface System {
  platform: string
  root: string
  env: Record<string, string | undefined>
  pause(milliseconds: number): Promise<void>
  run(file: string, args: string[], timeout?: number): Promise<string>
  /** Milliseconds for which another process that is at work on the state is waited for. */
  lockPatience?: number
}

export interface Options {
  /** As `https://licenses.example.com`, perhaps with a folder. http only for 127.0.0.1, [::1] and localhost. */
  server: string
  /** The product's id in the server's products.json. */
  product: string
  /** The server's public key, base64 or PEM; a list while keys change. */
  publicKey: string | string[]
  /** A folder of your app for this user, as Electron's app.getPath('userData'). */
  stateDir: string
  /** What the customer sees in his list of devices; the computer's name if not given. */
  deviceName?: string
  /** The product's `key_prefix`, if it has one. */
  keyPrefix?: string | null
  /** Milliseconds that one call may take to ask the server, with all its tries. 10,000 if not given. */
  timeout?: number
  /** What asks the server; Node's own if not given. In Electron: net.fetch, which knows the system's proxy. */
  fetch?: typeof fetch
  /** For tests: the time in milliseconds. */
  clock?: () => number
  /** For tests: another computer. */
  system?: System
}

export declare class LicenseClient {
  /** Throws a TypeError that names the option that makes no sense. */
  constructor(options: Options)
  readonly portalUrl: string
  activate(licenseKey: string): Promise<Result>
  validate(): Promise<Result>
  deactivate(): Promise<Result>
  status(): Promise<Result>
  /** An empty text where this computer could not be read, or is not known again. */
  deviceCode(): Promise<string>
  installFile(text: string): Promise<Result>
}

/** What a computer is made of. `failed`: what could not be asked for this time. `again`: it may be told another time. */
export interface Machine {
  machineId?: string | null
  board?: string | null
  disk?: string | null
  cards?: string[]
  installation?: string | null
  failed?: string[]
  again?: boolean
}

export declare const thisSystem: System
export declare function readMachine(system?: System, takes?: number): Promise<Machine & { failed: string[] }>
export declare function makeHardwareId(product: string, machine?: Machine): string | null
export declare function hardwareIdOf(
  machine: Machine & { failed: string[] },
  product: string,
  known: string | null,
  installation: string | null,
): string | null
export declare function sameMachine(one: string, other: string): boolean
export declare function makeDeviceCode(hardwareId: string, deviceName?: string, product?: string): string
export declare function licenseIds(typed: string, keyPrefix?: string | null): string[]
export declare function verifyEd25519(
  publicKey: Uint8Array,
  message: Uint8Array,
  signature: Uint8Array,
): Promise<boolean>

type Keys = Map<string, Uint8Array>

export declare function checkAnswer(
  request: {
    method: string
    path: string
    license_key: string
    key_prefix?: string | null
    hardware_id: string | null
    product: string | null
    nonce: string
  },
  answer: { status: number; headers: [string, string][]; body: Uint8Array },
  keys: Keys,
  now: number,
): Promise<{ result: string; verdict?: Record<string, unknown>; at?: number; clockOff?: boolean }>

export declare function checkLicenseFile(
  text: string,
  keys: Keys,
  here: { product: string; machine: string; licenseKey?: string | null; keyPrefix?: string | null },
  now: number,
): Promise<{ result: string; says?: Record<string, unknown> }>
