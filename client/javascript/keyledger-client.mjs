/**
 * Keyledger in your app: one file, to be copied into it. For Node 18 or newer and Electron's main process, without a
 * package.
 *
 *     const client = new LicenseClient({ server: 'https://licenses.example.com', product: 'my-product',
 *                                        publicKey: '<base64>', stateDir })
 *     let result = await client.activate(key)     // what the customer typed
 *     result = await client.validate()            // at each start; offline, the last license file counts
 *
 * How to use it: README.md beside this file. How it works: ../PROTOCOL.md and ../HARDWARE_ID.md.
 */

import { execFile } from 'node:child_process'
import { createHash, createHmac, createPublicKey, randomBytes, verify, webcrypto } from 'node:crypto'
import { promises as fs } from 'node:fs'
import * as os from 'node:os'
import * as path from 'node:path'

export const VERSION = '1.0.0'

const SECOND = 1000
const HOUR = 3600 * SECOND
const DAY = 86400 * SECOND
const CLOCK_MAY_DIFFER = 300 * SECOND
const CLOCK_MAY_JUMP = 366 * DAY // further ahead than that is a wrong clock, not a program that nobody used
const ATTEMPTS = 3
const MOST_BYTES = 1024 * 1024
const LONGEST_PAUSE = HOUR
const ROUTE = '/api/v1/licenses/'

/** What is shown to people, in English; translate by `code`. */
export const REASONS = {
  VALID: 'Your license is valid.',
  UNLICENSED: 'Please enter your license key.',
  NOT_A_KEY: 'Please enter the license key as it stands in your e-mail.',
  DEACTIVATED: 'The license was released from this computer.',
  NOT_FOUND: 'There is no such license key. Please compare it with the one in your e-mail.',
  BANNED: 'This license was revoked, or replaced by a new key.',
  SUSPENDED: 'This license is paused: a payment was refunded, disputed or has failed.',
  EXPIRED: 'Your license has ended. It works again as soon as it is renewed.',
  PRODUCT_SCOPE_MISMATCH: 'This license key is for another product.',
  USER_SCOPE_MISMATCH: 'This license key belongs to another e-mail address.',
  ENTITLEMENTS_MISSING: 'A feature that is needed here is not in your license.',
  TOO_MANY_MACHINES: 'All seats of this license are taken. Release a computer that you no longer use.',
  FINGERPRINT_SCOPE_MISMATCH: 'This computer was released. Enter the license key to use it here again.',
  NO_CONNECTION: 'The license server could not be reached. Please check the internet connection.',
  TIMED_OUT: 'The license server did not answer in time. Please try again.',
  PAUSED: 'The license server is busy. Please try again a little later.',
  NO_VERDICT: 'The license server could not answer. Please try again later.',
  UNSIGNED: 'Something else answered in the place of the license server. Does this network want you to sign in?',
  NO_FILE: 'Please connect to the internet once, so that your license can be checked.',
  FILE_EXPIRED: 'The time without the license server is over. Please connect to the internet once.',
  CLOCK_BACK: "This computer's clock is behind. Please set it right, or connect to the internet once.",
  NOT_READ: 'This computer could not be read. Please try again in a moment.',
  NOT_KEPT: 'The folder of this program cannot be written to, and without it this computer is not known again.',
  NOT_YET: "This computer's clock is behind. Please set it right, or connect to the internet once.",
  UNREADABLE: 'This is no license file, or not all of it.',
  UNKNOWN_FORMAT: 'This license file is for a newer version of the program.',
  UNKNOWN_KEY: 'This license file was signed with a key that this version of the program does not know.',
  BAD_SIGNATURE: 'This license file was changed, or does not come from the maker of this program.',
  OTHER_DEVICE: 'This license file is for another computer.',
  OTHER_PRODUCT: 'This license is for another product.',
  OTHER_LICENSE: 'This license file is for another license key.',
  OLD_FILE: 'This license file is older than the last word of the license server. Please get a new one.',
}

// ------------------------------------------------------------------------------------------------ signatures

/** Whether an Ed25519 signature fits (RFC 8032). Never throws: what cannot be read does not fit. */
export async function verifyEd25519(publicKey, message, signature) {
  if (publicKey.length !== 32 || signature.length !== 64) return false
  for (const verifies of IS_WEB_CRYPTO_QUIET ? [byWebCrypto, byNode] : [byNode]) {
    try {
      return await verifies(publicKey, message, signature)
    } catch {
      // not every Web Crypto has Ed25519: that says nothing about the signature
    }
  }
  return false
}

/** Node 18 prints a warning with the first use of Ed25519 there, and has had its own for long. */
const IS_WEB_CRYPTO_QUIET = parseInt(process.versions.node, 10) >= 20

async function byWebCrypto(publicKey, message, signature) {
  const key = await webcrypto.subtle.importKey('raw', publicKey, 'Ed25519', false, ['verify'])
  return webcrypto.subtle.verify('Ed25519', key, signature, message)
}

function byNode(publicKey, message, signature) {
  const key = createPublicKey({ key: Buffer.concat([SPKI, publicKey]), format: 'der', type: 'spki' })
  return verify(null, message, key, signature)
}

const SPKI = Buffer.from('302a300506032b6570032100', 'hex') // what stands before the 32 bytes in a PEM

const SIGNED_INPUT =
  /^sig1=(\("@status" "content-digest" "@method";req "@path";req\);created=([0-9]{1,15});keyid="([0-9a-f]{16})";alg="ed25519")$/
const SIGNATURE = /^sig1=:([A-Za-z0-9+/]{85}[AQgw]==):$/
const DIGEST = /^sha-256=:[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=:$/

/**
 * Whether an answer is our server's answer to this very request: PROTOCOL.md, "Is the answer to be believed?".
 * `headers` are pairs; `keys` maps key ids to the 32 bytes of the keys that the app was built with.
 */
export async function checkAnswer(request, answer, keys, now) {
  const no = (result) => ({ result })
  if (answer.status !== 200) return no('NO_VERDICT')
  const [digest, input, signature] = ['content-digest', 'signature-input', 'signature'].map((name) =>
    answer.headers
      .filter(([given]) => given.toLowerCase() === name)
      .map(([, value]) => value.trim())
      .join(', '),
  )
  if (!digest || !input || !signature) return no('UNSIGNED')
  const told = SIGNED_INPUT.exec(input)
  const signed = SIGNATURE.exec(signature)
  if (!told || !signed || !DIGEST.test(digest)) return no('UNREADABLE')
  const [, parameters, created, kid] = told
  const key = keys.get(kid)
  if (!key) return no('UNKNOWN_KEY')
  if (digest !== `sha-256=:${sha256(answer.body).toString('base64')}:`) return no('OTHER_BODY')
  const base =
    `"@status": 200\n"content-digest": ${digest}\n"@method";req: ${request.method}\n"@path";req: ${request.path}\n` +
    `"@signature-params": ${parameters}`
  const fits = await verifyEd25519(key, Buffer.from(base), Buffer.from(signed[1], 'base64'))
  if (!fits) return no('BAD_SIGNATURE')
  const verdict = verdictIn(answer.body)
  if (!verdict) return no('UNREADABLE')
  const problem = aboutAnother(request, verdict)
  if (problem) return no(problem)
  const at = Number(created) * SECOND
  return { result: 'BELIEVED', verdict, at, clockOff: Math.abs(at - now) > CLOCK_MAY_DIFFER }
}

function verdictIn(body) {
  const said = jsonIn(body)
  if (!isObject(said) || typeof said.valid !== 'boolean' || typeof said.code !== 'string') return null
  if (said.valid !== (said.code === 'VALID')) return null
  const license = said.license
  const isLicense = isObject(license) && typeof license.id === 'string' && isTexts(license.features)
  return isLicense || (license === null && !said.valid) ? said : null
}

/** The request is not signed: who sits in between could have put another key, device or product into it. */
function aboutAnother(request, verdict) {
  if (verdict.nonce !== request.nonce) return 'OTHER_REQUEST'
  if (verdict.license && !licenseIds(request.license_key, request.key_prefix).includes(verdict.license.id))
    return 'OTHER_LICENSE'
  const isOfProduct = (verdict.license?.product_id ?? null) === (request.product ?? null)
  if (verdict.code === 'PRODUCT_SCOPE_MISMATCH' && isOfProduct) return 'OTHER_PRODUCT'
  if (!verdict.valid) return null
  const frees = request.path.endsWith('/deactivate')
  const device = verdict.device?.hardware_id
  if (request.hardware_id && !frees && !(typeof device === 'string' && sameMachine(device, request.hardware_id)))
    return 'OTHER_DEVICE'
  return request.product && !isOfProduct ? 'OTHER_PRODUCT' : null
}

// ------------------------------------------------------------------------------------------------ license files

const FILE = /-----BEGIN LICENSE FILE-----([A-Za-z0-9+/=> \t\r\n]*)-----END LICENSE FILE-----/g
const TIME = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$/

/**
 * Whether a license file is good here and now: PROTOCOL.md, "License files". `result` is GOOD or names what is not, `says`
 * is what stands in a file that is signed well. `here`: product, machine (its hardware id), keyPrefix, licenseKey (null:
 * the file alone is judged).
 */
export async function checkLicenseFile(text, keys, here, now) {
  const { enc, signature, says } = opened(text) ?? {}
  if (signature?.length !== 64 || !isObject(says)) return { result: 'UNREADABLE' }
  if (says.format !== 1) return { result: 'UNKNOWN_FORMAT' }
  const key = keys.get(says.kid)
  if (!key) return { result: 'UNKNOWN_KEY' }
  if (!(await verifyEd25519(key, Buffer.from(`license/${enc}`), signature))) return { result: 'BAD_SIGNATURE' }
  if (!isWhole(says)) return { result: 'UNREADABLE' }
  return { result: judged(says, here, now), says }
}

/** What stands in a file, whoever wrote it. */
function opened(text) {
  const found = [...String(text).slice(0, MOST_BYTES).matchAll(FILE)]
  const inside = found.length === 1 ? jsonIn(fromBase64(found[0][1].replace(/[> \t\r\n]/g, ''))) : null
  if (!isObject(inside) || inside.alg !== 'ed25519') return null
  return { enc: inside.enc, signature: fromBase64(inside.sig), says: jsonIn(fromBase64(inside.enc)) }
}

function isWhole(says) {
  const { license, product, features, hardware_id: device, issued, expires } = says
  return (
    isObject(license) &&
    typeof license.id === 'string' &&
    typeof license.key_sha256 === 'string' &&
    isObject(product) &&
    isTexts(features) &&
    (device === null || typeof device === 'string') &&
    isTime(issued) &&
    (expires === null || isTime(expires))
  )
}

function judged(says, here, now) {
  if (says.product.id !== here.product) return 'OTHER_PRODUCT'
  if (says.hardware_id !== null && !sameMachine(says.hardware_id, here.machine)) return 'OTHER_DEVICE'
  if (here.licenseKey && !isFileOf(says, here.licenseKey, here.keyPrefix)) return 'OTHER_LICENSE'
  if (says.expires === null) return 'GOOD'
  if (now < Date.parse(says.issued) - DAY) return 'NOT_YET'
  return now >= Date.parse(says.expires) ? 'EXPIRED' : 'GOOD'
}

function isFileOf(says, licenseKey, keyPrefix) {
  return readings(licenseKey, keyPrefix).some((key) => sha256(key).toString('hex') === says.license.key_sha256)
}

// ------------------------------------------------------------------------------------------------ keys and codes

const SYMBOLS = 30
const FORGIVEN = { O: '0', I: '1', L: '1' }

/** The ids that the license of a typed key may have: the key as it stands, and as the server writes it. */
export function licenseIds(typed, keyPrefix = null) {
  return readings(typed, keyPrefix).map((key) => `lic_${sha256(key).toString('hex').slice(0, 20)}`)
}

function readings(typed, keyPrefix) {
  const text = typed.trim()
  const plain = plainKey(text)
  const [head, body] = [plain.slice(0, -SYMBOLS), plain.slice(-SYMBOLS)]
  if (!/^[0-9A-HJKMNP-TV-Z]{30}$/.test(body)) return [text]
  const grouped = body.match(/.{6}/g).join('-')
  const found = [text]
  if (!head) found.push(grouped)
  if (keyPrefix && ['', plainKey(keyPrefix)].includes(head)) found.push(`${keyPrefix}-${grouped}`)
  return [...new Set(found)]
}

function plainKey(text) {
  return text
    .toUpperCase()
    .replace(/[ \t\u2010-\u2014-]/g, '')
    .replace(/[OIL]/g, (symbol) => FORGIVEN[symbol])
}

/** What a computer without a network shows, so that its license file can be made on the seller's pages. */
export function makeDeviceCode(hardwareId, deviceName = '', product = '') {
  const check = sha256(`device/${hardwareId}\0${deviceName}\0${product}`).toString('hex').slice(0, 8)
  const said = JSON.stringify({ format: 1, hardware_id: hardwareId, device_name: deviceName, product, check })
  const lines = Buffer.from(said)
    .toString('base64')
    .match(/.{1,64}/g)
  return ['-----BEGIN DEVICE CODE-----', ...lines, '-----END DEVICE CODE-----', ''].join('\n')
}

// ------------------------------------------------------------------------------------------------ the hardware id

const JUNK = new Set(
  `tobefilledbyoem tobefilledbyoemtobefilledbyoem defaultstring systemserialnumber systemproductname serialnumber
   baseboardserialnumber chassisserialnumber notspecified notapplicable notavailable notprovided notset noserial
   uninitialized unknown invalid default oemoem empty 123456 1234567 12345678 123456789 1234567890 0123456789
   123456789abcdef 0123456789abcdef 1234567890abcdef 123456789abcdef0 03000200040005000006000700080009
   00020003000400050006000700080009 12345678123456789012345678901234 1234567812345678123456789abcdef0
   12345678123456781234567890abcdef 123456781234567890abcddeefaabbcc 11111111222233334444555555555555
   00010203040506070809 000102030405060708090a0b0c0d0e0f`.split(/\s+/),
)
const JUNK_DISKS = ['qm0000', 'drivescsi', 'driveide', 'drivesata', 'drivevirtio', 'persistentdisk', 'virtual']
const JUNK_CARDS = new Set(
  '001122334455 00e04c000001 00e04c680001 00e04c360000 00e04c534458 888888888788 123456789abc'.split(' '),
)

/** The id of these parts of a computer; null where nothing is left of them. Its rules: HARDWARE_ID.md. */
export function makeHardwareId(
  product,
  { machineId = null, board = null, disk = null, cards = [], installation = null } = {},
) {
  const part = (letter, value) => letter + sha256(`kl1\n${product}\n${letter}\n${value}`).toString('hex').slice(0, 16)
  const named = [
    ['m', plainPart(machineId)],
    ['b', plainPart(board)],
    ['d', plainPart(disk, JUNK_DISKS)],
  ]
  const found = named.filter(([, value]) => value).map(([letter, value]) => part(letter, value))
  const addresses = [...new Set(cards.map(cardAddress).filter(Boolean))].sort().slice(0, 4)
  found.push(...addresses.map((address) => part('n', address)).sort())
  if (!found.length && installation) found.push(part('x', installation))
  return found.length ? ['kl1', ...found].join('.') : null
}

/** Two parts in common, one of them a disk or a network card: images and factories copy the other two. */
export function sameMachine(one, other) {
  if (one === other || !one.startsWith('kl1.') || !other.startsWith('kl1.')) return one === other
  const others = new Set(other.split('.'))
  const common = [...new Set(one.split('.'))].filter(
    (part) => others.has(part) && part.length === 17 && 'mbdn'.includes(part[0]),
  )
  return isEnough(common)
}

const isEnough = (parts) => parts.length >= 2 && parts.some((part) => 'dn'.includes(part[0]))

function plainPart(value, junkStarts = []) {
  const text = (value ?? '').toLowerCase().replace(/[^a-z0-9]/g, '')
  const isJunk =
    text.length < 6 || new Set(text).size < 3 || JUNK.has(text) || junkStarts.some((start) => text.startsWith(start))
  return isJunk ? null : text
}

function cardAddress(card) {
  const text = card.toLowerCase().replace(/[-:. ]/g, '')
  if (!/^[0-9a-f]{12}$/.test(text) || new Set(text).size < 3 || JUNK_CARDS.has(text)) return null
  const first = parseInt(text.slice(0, 2), 16)
  const isMadeUp = first & 2 && !text.startsWith('525400')
  return first & 1 || isMadeUp ? null : text
}

// ------------------------------------------------------------------------------------------------ reading a computer

const READING_TAKES = 5 * SECOND
const FIRST_READING_TAKES = 25 * SECOND // a seat is taken once: then it is worth waiting for all parts
const READINGS = 3 // then what cannot be asked for is left alone until the next start
const VIRTUAL_DISK = /^(vd|xvd|loop|zram|ram|nbd)/
const VIRTUAL_MODEL = /qemu|vbox|vmware|virtual|amazon elastic block store/i
const FOR_GOOD = ['ENOENT', 'EACCES', 'EPERM', 'UNKNOWN'] // a program that is not there or, by a policy, forbidden
const CONTAINER = /docker|containerd|kubepods|libpod|lxc/

/** What a system is asked. Tests put another one in its place. */
export const thisSystem = {
  platform: process.platform,
  root: '/',
  env: process.env,
  pause,
  run: (file, args, timeout = READING_TAKES) =>
    new Promise((resolve, reject) => {
      const bounds = { timeout, maxBuffer: MOST_BYTES, windowsHide: true, encoding: 'utf8' }
      execFile(file, args, bounds, (error, stdout) => (error ? reject(error) : resolve(stdout)))
    }),
}

/**
 * The parts of this computer, as they stand. `failed` names those that could not be asked for this time, which is not the
 * same as not being there: a program that was too slow once must not make another computer of this one. `again`: they may
 * be told another time, which is not so where such a program is forbidden or not there.
 */
export async function readMachine(system = thisSystem, takes = READING_TAKES) {
  const reader = { win32: readWindows, darwin: readMac, linux: readLinux }[system.platform]
  const run = (file, args) => system.run(file, args, takes)
  return reader ? reader(system, run) : { failed: [] }
}

async function readWindows(system, run) {
  const folder = `${system.env.SystemRoot ?? 'C:\\Windows'}\\System32`
  const value = async (key, name) => {
    const told = await run(`${folder}\\reg.exe`, ['query', key, '/v', name, '/reg:64']).catch((error) => {
      if (error.code === 1) return '' // it says that there is no such value
      throw error
    })
    return new RegExp(`^\\s*${name}\\s+REG_SZ\\s+(\\S+)\\s*$`, 'mi').exec(told)?.[1] ?? null
  }
  const asked = {
    machineId: () => value('HKLM\\SOFTWARE\\Microsoft\\Cryptography', 'MachineGuid'),
    board: () => value('HKLM\\SYSTEM\\HardwareConfig', 'LastConfig'),
    devices: () =>
      run(`${folder}\\WindowsPowerShell\\v1.0\\powershell.exe`, [
        '-NoProfile',
        '-NonInteractive',
        '-Command',
        WINDOWS_DEVICES,
      ]),
  }
  const { devices, failed, ...parts } = await allOf(asked)
  const lines = [...(devices ?? 'failed=disk\nfailed=cards').matchAll(/^(\w+)=(.*?)\s*$/gm)]
  const of = (name) => lines.filter(([, given]) => given === name).map(([, , told]) => told)
  const disk = VIRTUAL_MODEL.test(of('model')[0] ?? '') ? null : of('disk')[0] || null
  return {
    ...parts,
    disk,
    cards: of('card'),
    failed: [...failed.filter((name) => name !== 'devices'), ...of('failed')],
  }
}

// In one line, without double quotes: so it goes through every system's way of handing over arguments.
const WINDOWS_DEVICES = [
  "$ErrorActionPreference = 'Stop';",
  'try {',
  "$storage = @{ Namespace = 'root/Microsoft/Windows/Storage'; ClassName = 'MSFT_Disk'; Filter = 'IsBoot = TRUE' };",
  "$disk = Get-CimInstance @storage | Select-Object -First 1; 'disk=' + $disk.SerialNumber; 'model=' + $disk.Model",
  "} catch { 'failed=disk' };",
  'try {',
  "Get-CimInstance Win32_NetworkAdapter | Where-Object { $_.PNPDeviceID -like 'PCI\\*' -and $_.MACAddress }",
  "| ForEach-Object { 'card=' + $_.MACAddress }",
  "} catch { 'failed=cards' }",
].join(' ')

async function readMac(system, run) {
  const asked = {
    board: () => run('/usr/sbin/ioreg', ['-rd1', '-c', 'IOPlatformExpertDevice']),
    cards: () => run('/usr/sbin/networksetup', ['-listallhardwareports']),
  }
  const told = await allOf(asked)
  const value = (name) => new RegExp(`"${name}" = "([^"]*)"`).exec(told.board ?? '')?.[1] ?? null
  const failed = told.failed.flatMap((name) => (name === 'board' ? ['machineId', 'board'] : [name]))
  const ports = (told.cards ?? '')
    .split(/\n\s*\n/)
    .filter((port) => !/Hardware Port:.*(usb|bluetooth|thunderbolt|bridge)/i.test(port))
  const cards = ports.map((port) => /Ethernet Address: ([0-9a-f:]{17})/i.exec(port)?.[1]).filter(Boolean)
  const ids = { machineId: value('IOPlatformUUID'), board: value('IOPlatformSerialNumber') }
  return { ...ids, disk: null, cards, failed, again: told.again }
}

async function readLinux(system) {
  const at = (...names) => path.join(system.root, ...names)
  const text = async (...names) =>
    (await fs.readFile(at(...names), 'utf8').catch(() => '')).replace(/\0/g, '').trim() || null
  if (await isContainer(system, at, text)) return { failed: [] }
  const machineId = (await text('etc/machine-id')) ?? (await text('var/lib/dbus/machine-id'))
  const isWsl = /microsoft/i.test((await text('proc/sys/kernel/osrelease')) ?? '')
  if (isWsl) return { machineId, failed: [] } // it gets another network card with each start
  const board = (await text('sys/class/dmi/id/product_uuid')) ?? (await text('proc/device-tree/serial-number'))
  return { machineId, board, disk: await linuxDisk(at, text), cards: await linuxCards(at, text), failed: [] }
}

async function isContainer(system, at, text) {
  if (system.env.container || system.env.KUBERNETES_SERVICE_HOST) return true
  if ((await isThere(at('.dockerenv'))) || (await isThere(at('run/.containerenv')))) return true
  const group = (await text('proc/1/cgroup')) ?? ''
  if (CONTAINER.test(group)) return true
  const root = await rootMount(text) // containerd with cgroup v2 leaves no name of its own
  return group === '0::/' && root?.[root.indexOf('-') + 1] === 'overlay'
}

const isThere = (file) =>
  fs.stat(file).then(
    () => true,
    () => false,
  )

/** The serial number of the disk under `/`: through partitions, encryption and volumes down to the disk itself. */
async function linuxDisk(at, text) {
  let block = await rootBlock(at, text)
  for (let depth = 0; block && depth < 8; depth++) {
    const below = (await fs.readdir(path.join(block, 'slaves')).catch(() => [])).sort()
    if (await isThere(path.join(block, 'partition'))) block = path.dirname(block)
    else if (below.length) block = await fs.realpath(path.join(block, 'slaves', below[0])).catch(() => null)
    else break
  }
  if (!block || VIRTUAL_DISK.test(path.basename(block))) return null
  const told = async (name) =>
    (await fs.readFile(path.join(block, 'device', name), 'utf8').catch(() => '')).trim() || null
  if (VIRTUAL_MODEL.test((await told('model')) ?? '')) return null
  return (await told('serial')) ?? (await told('wwid')) ?? (await told('cid'))
}

/** Btrfs and others mount under a number that is no disk's: then the name of the device is what counts. */
async function rootBlock(at, text) {
  const root = await rootMount(text)
  if (!root) return null
  const source = root[root.indexOf('-') + 2] ?? ''
  const byName = async () => {
    const device = await fs.realpath(at(source)).catch(() => null)
    return device && fs.realpath(at('sys/class/block', path.basename(device))).catch(() => null)
  }
  return (
    (await fs.realpath(at('sys/dev/block', root[2])).catch(() => null)) ??
    (source.startsWith('/dev/') ? byName() : null)
  )
}

async function rootMount(text) {
  const mounts = ((await text('proc/self/mountinfo')) ?? '').split('\n').map((line) => line.split(' '))
  return mounts.filter((fields) => fields[4] === '/').pop()
}

async function linuxCards(at, text) {
  const cards = []
  for (const name of (await fs.readdir(at('sys/class/net')).catch(() => [])).sort()) {
    const device = await fs.realpath(at('sys/class/net', name, 'device')).catch(() => null)
    if (!device || /\/usb\d/.test(device)) continue
    const address =
      (await text('sys/class/net', name, 'phy80211/macaddress')) ?? (await text('sys/class/net', name, 'address'))
    if (address) cards.push(address)
  }
  return cards
}

/** Each answer by its name, null and named in `failed` where there was none. `again`: not for good. */
async function allOf(asked) {
  const names = Object.keys(asked)
  const told = await Promise.allSettled(names.map((name) => asked[name]()))
  const values = names.map((name, place) => [name, told[place].status === 'fulfilled' ? told[place].value : null])
  const failed = names.filter((_, place) => told[place].status === 'rejected')
  const again = told.some(({ reason }) => reason && !FOR_GOOD.includes(reason.code))
  return { ...Object.fromEntries(values), failed, again }
}

/**
 * The computer's present id. Parts that could not be asked for this time are as they were in `known`, if any other shows
 * that it is the same computer.
 */
export function hardwareIdOf(machine, product, known, installation) {
  const { failed, ...parts } = machine
  const present = makeHardwareId(product, { ...parts, installation: failed.length && known ? null : installation })
  const [had, have] = [known, present].map((id) => (id ?? '').split('.').slice(1))
  if (!failed.length || (have.length && !had.some((part) => have.includes(part)))) return present
  const letters = failed.map((name) => LETTERS[name])
  const all = [...new Set([...have, ...had.filter((part) => letters.includes(part[0]))])]
  const order = (part) => 'mbdnx'.indexOf(part[0])
  all.sort((one, other) => order(one) - order(other) || (one < other ? -1 : 1))
  return all.length ? ['kl1', ...all].join('.') : null
}

const LETTERS = { machineId: 'm', board: 'b', disk: 'd', cards: 'n' }

// ------------------------------------------------------------------------------------------------ what is kept

const LOCK_IS_STALE = 10 * SECOND
const LOCK_PATIENCE = 10 * SECOND

/**
 * One small file, always whole, and a second copy of it for the day on which a disk or a cleaner spoils the first.
 *
 * Both carry a hash. Its key is no secret to who reads this; it is there so that nobody turns time back or a refusal away
 * with an editor. Where it does not fit, only the key that was entered is believed, and the server is asked again.
 */
class Shelf {
  unwritten = null // the last state that no disk took, and the mac of what lies there instead

  constructor(folder, product, patience = LOCK_PATIENCE) {
    this.patience = patience
    this.folder = folder
    this.files = ['license.json', 'license.backup.json'].map((name) => path.join(folder, name))
    this.lock = path.join(folder, 'license.lock')
    this.secret = sha256(`keyledger state\n${product}`)
  }

  async read() {
    const kept = await this.onDisk()
    return this.unwritten && this.unwritten.instead === kept.mac ? this.unwritten.state : kept
  }

  async onDisk() {
    const found = (await Promise.all(this.files.map(stateIn))).filter(Boolean)
    const good = found.find((state) => state.mac === this.#mac(state))
    if (good) return good
    const kept = ['license_key', 'installation'].filter((name) => typeof found[0]?.[name] === 'string')
    return { format: 1, ...Object.fromEntries(kept.map((name) => [name, found[0][name]])) }
  }

  /** Read, changed and written while other processes wait. A folder that cannot be written to takes no license away. */
  async change(change) {
    const isOurs = await this.#takeLock()
    try {
      const state = await this.read()
      const next = { ...state, ...change(state) }
      const mac = this.#mac(next)
      if (mac !== state.mac || this.unwritten) await this.#write({ ...next, mac })
      return next
    } finally {
      if (isOurs) await fs.unlink(this.lock).catch(() => {})
    }
  }

  #mac({ mac, ...state }) {
    const said = JSON.stringify(Object.entries(state).sort(([one], [other]) => (one < other ? -1 : 1)))
    return createHmac('sha256', this.secret).update(said).digest('hex')
  }

  async #write(state) {
    try {
      for (const file of this.files) await replace(file, JSON.stringify(state, null, 1))
      this.unwritten = null
    } catch {
      // it counts all the same, until the program ends
      this.unwritten = { state, instead: (await this.onDisk()).mac }
    }
  }

  async #takeLock() {
    await fs.mkdir(this.folder, { recursive: true, mode: 0o700 }).catch(() => {})
    const end = performance.now() + this.patience
    let refused = 0
    do {
      try {
        await (await fs.open(this.lock, 'wx', 0o600)).close()
        return true
      } catch (error) {
        if (!['EEXIST', 'EPERM', 'EBUSY'].includes(error.code)) return false
        const made = await fs.stat(this.lock).catch(() => null)
        const isForbidden = !made && error.code !== 'EEXIST' // or, on Windows, just being deleted
        if (isForbidden && ++refused === 5) return false
        if (made && Math.abs(Date.now() - made.mtimeMs) > LOCK_IS_STALE) await fs.unlink(this.lock).catch(() => {})
        else await pause(1 + Math.random()) // who holds it may take it again at once: look often
      }
    } while (performance.now() < end)
    return false // who holds it that long hangs: each file is whole at any moment, whoever writes last
  }
}

async function stateIn(file) {
  const state = jsonIn(await fs.readFile(file).catch(() => null))
  return isObject(state) && state.format === 1 ? state : null
}

async function replace(file, text) {
  const fresh = `${file}.${process.pid}.${randomBytes(4).toString('hex')}`
  try {
    const handle = await fs.open(fresh, 'wx', 0o600)
    try {
      await handle.writeFile(text)
      await handle.sync()
    } finally {
      await handle.close()
    }
    await renameOver(fresh, file)
  } catch (error) {
    await fs.unlink(fresh).catch(() => {})
    throw error
  }
}

/** On Windows a scanner that has the old file open for a moment is no reason to give up. */
async function renameOver(fresh, file) {
  for (let tries = 1; ; tries++) {
    try {
      return await fs.rename(fresh, file)
    } catch (error) {
      if (tries === 5 || !['EPERM', 'EACCES', 'EBUSY'].includes(error.code)) throw error
      await pause(50 * tries)
    }
  }
}

// ------------------------------------------------------------------------------------------------ the client

/**
 * The verbs. Each answers with a result, whatever the network, the server, the clock or the disk do; an exception is a
 * mistake of the program that uses it. Called at once they go one after another; several processes may share a folder.
 */
export class LicenseClient {
  #base
  #product
  #keys
  #shelf
  #deviceName
  #keyPrefix
  #timeout
  #fetch
  #clock
  #system
  #turn = Promise.resolve()
  #pausedUntil = 0
  #machine = null
  #readings = 0
  #hasLookedLonger = false

  /** Throws a TypeError that names the option that makes no sense. */
  constructor({
    server,
    product,
    publicKey,
    stateDir,
    deviceName = os.hostname(),
    keyPrefix = null,
    timeout = 10 * SECOND,
    fetch = globalThis.fetch,
    clock = Date.now,
    system = thisSystem,
  }) {
    this.#base = serverBase(server)
    this.#product = requireText('product', product, 128)
    this.#keys = keyTable(publicKey)
    this.#shelf = new Shelf(requireText('stateDir', stateDir), product, system.lockPatience)
    this.#deviceName = tidyName(deviceName)
    this.#keyPrefix = keyPrefix
    this.#timeout = requireDuration('timeout', timeout)
    this.#fetch = fetch
    this.#clock = clock
    this.#system = system
  }

  /** Where customers see their licenses, release a computer and get a license file. */
  get portalUrl() {
    return `${this.#base}/portal`
  }

  /** Take a seat for this computer, and a license file for the days offline. */
  activate(licenseKey) {
    return this.#inTurn(() => this.#activate(licenseKey))
  }

  /** Ask the server; where it cannot be reached, the last license file counts. To be called at each start. */
  validate() {
    return this.#inTurn(() => this.#validate())
  }

  /** Give this computer's seat back and forget the key. Where the server was not reached, nothing is forgotten. */
  deactivate() {
    return this.#inTurn(() => this.#deactivate())
  }

  /** What is known without asking anybody. */
  status() {
    return this.#inTurn(async () => this.#offline(await this.#look()))
  }

  /** The text with which a customer gets a license file for this computer on another one. */
  deviceCode() {
    return this.#inTurn(() => this.#deviceCode())
  }

  /** Use a license file that the customer brought: its text. */
  installFile(text) {
    return this.#inTurn(() => this.#installFile(text))
  }

  #inTurn(work) {
    const done = this.#turn.then(work)
    this.#turn = done.catch(() => {})
    return done
  }

  // -------------------------------------------------------------------------------------------- the verbs
  async #activate(typed) {
    const key = String(typed ?? '').trim()
    if (!/^[^\x00-\x1f\x7f]{1,128}$/.test(key)) return noVerdict('NOT_A_KEY')
    const seen = await this.#lookLonger(await this.#look())
    if (seen.problem) return noVerdict(seen.problem)
    const heard = await this.#ask('file', key, seen.machine, this.#deadline(), { device_name: this.#deviceName })
    if (!heard.verdict) return noVerdict(heard.code, heard)
    if (heard.verdict.valid) return this.#accept(key, heard, seen)
    await this.#deny(key, heard)
    return this.#refused(heard)
  }

  async #validate() {
    let seen = await this.#look()
    const key = seen.state.license_key
    if (!key) return this.#offline(seen)
    const left = this.#pausedUntil - performance.now()
    if (left > 0) return this.#offline(seen, missed('PAUSED', 'the server asked for a pause', Math.ceil(left / SECOND)))
    seen = await this.#lookLonger(seen)
    if (seen.problem) return this.#offline(seen, missed(seen.problem, seen.problem))
    const deadline = this.#deadline()
    const heard = await this.#ask('validate', key, seen.machine, deadline, { bind: false })
    if (!heard.verdict) {
      const state = await this.#shelf.change((kept) => ({ missed: kept.missed ?? this.#clock() }))
      return this.#offline({ ...seen, state }, heard)
    }
    if (heard.verdict.valid) {
      return this.#accept(
        key,
        await this.#withFile(key, heard, seen, deadline),
        seen,
        (kept) => kept.license_key === key,
      )
    }
    await this.#deny(key, heard)
    return this.#refused(heard)
  }

  async #deactivate() {
    let seen = await this.#look()
    const key = seen.state.license_key
    if (key) {
      seen = await this.#lookLonger(seen)
      if (seen.problem) return this.#offline(seen, missed(seen.problem, seen.problem))
      const heard = await this.#ask('deactivate', key, seen.machine, this.#deadline())
      if (!heard.verdict) return this.#offline(seen, heard)
    }
    await this.#shelf.change(() => ({ license_key: null, file: null, denied: null, missed: null }))
    return { ...noVerdict('DEACTIVATED'), state: 'unlicensed', source: key ? 'online' : 'offline' }
  }

  async #deviceCode() {
    const { machine, problem } = await this.#lookLonger(await this.#look())
    return problem ? '' : makeDeviceCode(machine, this.#deviceName, this.#product)
  }

  async #installFile(text) {
    const [seen, now] = [await this.#lookLonger(await this.#look()), this.#clock()]
    const { state, problem } = seen
    if (problem === 'NOT_READ') return noVerdict(problem)
    const here = { product: this.#product, machine: seen.machine }
    const { result, says } = await checkLicenseFile(text, this.#keys, here, now)
    if (result !== 'GOOD') return noVerdict(result)
    const issued = Date.parse(says.issued)
    const isOfKey = state.license_key && isFileOf(says, state.license_key, this.#keyPrefix)
    const { license_id: refused, at } = state.denied ?? {}
    const isRefused = refused === says.license.id || (refused === null && isOfKey)
    if (isRefused && issued <= at) return noVerdict('OLD_FILE')
    // A file that is newer than all before shows what time it is; an older one must not turn the time back.
    const known = issued > (state.issued ?? 0) ? issued : (state.seen ?? 0)
    const changed = await this.#shelf.change(() => ({
      license_key: isOfKey ? state.license_key : null,
      last_id: seen.machine,
      file: String(text),
      issued: Math.max(issued, state.issued ?? 0),
      denied: null,
      missed: null,
      seen: Math.max(now, known),
    }))
    return this.#offline({ ...seen, state: changed })
  }

  // -------------------------------------------------------------------------------------------- what follows
  /** What another window or process has entered or given back meanwhile stays so, unless the key is new. */
  async #accept(key, heard, seen, isStill = () => true) {
    const text = heard.verdict.license_file
    const brought = await this.#fileIn(text, key, seen, heard.at)
    const now = { seen: heard.at, ahead: this.#clock() - heard.at }
    const fresh = { license_key: key, last_id: seen.machine, denied: null, missed: null, ...now }
    if (brought.result === 'GOOD') Object.assign(fresh, { file: text, issued: Date.parse(brought.says.issued) })
    const nothing = { file: null } // what is kept for another key is good for nothing
    const changes = (kept) => (isStill(kept) ? { ...(this.#isKept(key, kept) ? {} : nothing), ...fresh } : {})
    const state = await this.#shelf.change(changes)
    const kept = brought.result === 'GOOD' ? brought : await this.#fileIn(state.file, key, seen, heard.at)
    const graceEnd = kept.result === 'GOOD' ? kept.says.expires : null
    return { ...this.#told(heard, noVerdict('VALID')), valid: true, state: 'valid', graceEnd }
  }

  /**
   * A file of today is as good as one of this minute; an older one is renewed, so that all its days lie ahead. So is one
   * that was made for the computer as it was before: the server hears of its new parts.
   */
  async #withFile(key, heard, seen, deadline) {
    const { result, says } = await this.#fileIn(seen.state.file, key, seen, heard.at)
    const isFresh = result === 'GOOD' && (says.expires === null || heard.at - Date.parse(says.issued) < DAY)
    if (isFresh && [null, seen.machine].includes(says.hardware_id)) return heard
    const more = await this.#ask('file', key, seen.machine, deadline, { device_name: this.#deviceName })
    return more.verdict?.valid ? more : heard
  }

  async #fileIn(text, licenseKey, { machine }, now) {
    const here = { product: this.#product, machine, licenseKey, keyPrefix: this.#keyPrefix }
    return text ? checkLicenseFile(text, this.#keys, here, now) : { result: 'NO_FILE' }
  }

  /** Another key that is refused takes nothing from the one that is kept. */
  #deny(key, { verdict, at }) {
    const license = { license_id: verdict.license?.id ?? null, expiry: verdict.license?.expiry_date ?? null }
    const denied = { code: verdict.code, at, ...license, help_url: this.#helpIn(verdict) }
    const changes = { license_key: key, denied, missed: null, seen: at }
    return this.#shelf.change((kept) => (this.#isKept(key, kept) ? changes : {}))
  }

  /** A license that came as a file may have no key beside it: then it is the file that knows its key. */
  #isKept(key, { license_key: kept, file }) {
    const ids = licenseIds(key, this.#keyPrefix)
    if (kept) return licenseIds(kept, this.#keyPrefix).some((id) => ids.includes(id))
    const says = opened(file)?.says
    return isObject(says) && isFileOf(says, key, this.#keyPrefix)
  }

  /** The verdict of what is kept. `why` says why the server was not heard, where it was asked. */
  async #offline(seen, why = null) {
    const { denied, file, license_key: key } = seen.state
    if (denied) {
      const { code, expiry, help_url: helpUrl } = denied
      return { ...noVerdict(code, why), state: 'denied', message: REASONS[code] ?? REASONS.SUSPENDED, expiry, helpUrl }
    }
    if (!file) return noVerdict(key ? (why?.code ?? 'NO_FILE') : 'UNLICENSED', why)
    const { now, isBack } = this.#timeOf(seen.state)
    const { result, says } = await this.#fileIn(file, key, seen, now)
    if (['GOOD', 'EXPIRED', 'NOT_YET'].includes(result)) {
      if (isBack && says.expires !== null) return noVerdict('CLOCK_BACK', why)
      await this.#rememberTime(seen.state, now, result === 'GOOD')
    }
    if (result === 'GOOD') return filed(says, why, Boolean(why || seen.state.missed), isBack)
    const message = result === 'EXPIRED' ? REASONS.FILE_EXPIRED : (REASONS[result] ?? result)
    return { ...noVerdict(result, why), message, expiry: says?.license.expiry_date ?? null }
  }

  // -------------------------------------------------------------------------------------------- the time
  /**
   * What time it is offline: by the clock, or by the clock as far as it was off when the server was last heard; never
   * before the latest time that is known. And whether the clock was put back by more than a day.
   */
  #timeOf({ seen, ahead }) {
    const local = this.#clock()
    const latest = seen ?? local
    const possible = [local, local - (ahead ?? 0)].filter((time) => time >= latest - DAY)
    return possible.length
      ? { now: Math.max(Math.min(...possible), latest), isBack: false }
      : { now: latest, isBack: true }
  }

  /** Once an hour. What is far ahead and good for nothing is a wrong clock: it shall lock nobody out. */
  async #rememberTime({ seen }, now, isGood) {
    const passed = now - (seen ?? now)
    if (seen && (passed <= HOUR || (!isGood && passed >= CLOCK_MAY_JUMP))) return
    await this.#shelf.change((kept) => ({ seen: Math.max(kept.seen ?? 0, now) }))
  }

  // -------------------------------------------------------------------------------------------- this computer
  /** `problem` says why no seat can be bound to what was seen. */
  async #look() {
    if (!this.#machine || (this.#machine.failed.length && this.#readings < READINGS)) {
      this.#machine = await readMachine(this.#system)
      this.#readings++
    }
    return this.#seen()
  }

  /** Half of a computer is another computer at the next start: at first sight all of it is worth waiting for. */
  async #lookLonger(seen) {
    if (seen.problem !== 'NOT_READ') return seen
    this.#machine = await readMachine(this.#system, FIRST_READING_TAKES)
    this.#hasLookedLonger = true
    return this.#seen()
  }

  async #seen() {
    let state = await this.#shelf.read()
    let machine = hardwareIdOf(this.#machine, this.#product, state.last_id ?? null, state.installation ?? null)
    if (!machine) {
      const fresh = randomBytes(16).toString('base64url')
      state = await this.#shelf.change((kept) => ({ installation: kept.installation ?? fresh }))
      machine = makeHardwareId(this.#product, { installation: state.installation })
    }
    const isKnownAgain = isEnough(machine.split('.').slice(1)) || sameMachine(machine, state.last_id ?? '')
    const { failed, again } = this.#machine
    const isHalf = failed.length > 0 && (again || !this.#hasLookedLonger) && !isKnownAgain
    const isLost = machine.startsWith('kl1.x') && (await this.#shelf.onDisk()).installation !== state.installation
    return { state, machine, problem: isHalf ? 'NOT_READ' : isLost ? 'NOT_KEPT' : null }
  }

  // -------------------------------------------------------------------------------------------- the server
  #deadline() {
    return performance.now() + this.#timeout
  }

  /** A verdict with `at`, the server's time; or why there is none. What was lost is tried again, a verdict is not. */
  async #ask(verb, key, machine, deadline, more = {}) {
    for (let attempt = 1; ; attempt++) {
      const heard = await this.#askOnce(verb, key, machine, deadline, more)
      if (heard.verdict || !heard.again) return heard
      const wait = (heard.retryAfter ?? 2 ** (attempt - 2) * (0.5 + Math.random())) * SECOND
      if (attempt === ATTEMPTS || performance.now() + wait >= deadline) {
        this.#pausedUntil = performance.now() + (heard.retryAfter ?? 0) * SECOND
        return heard
      }
      await this.#system.pause(wait)
    }
  }

  async #askOnce(verb, key, machine, deadline, more) {
    const url = new URL(`${this.#base}${ROUTE}${verb}`)
    const sent = { license_key: key, hardware_id: machine, nonce: randomBytes(16).toString('base64url'), ...more }
    if (verb !== 'deactivate') sent.product = this.#product
    const milliseconds = Math.ceil(deadline - performance.now())
    if (milliseconds <= 0) return missed('TIMED_OUT', 'the time limit is over')
    let answer
    try {
      answer = await send(this.#fetch, url, JSON.stringify(sent), AbortSignal.timeout(milliseconds))
    } catch (error) {
      const isLate = ['TimeoutError', 'AbortError'].includes(error.name)
      return { ...missed(isLate ? 'TIMED_OUT' : 'NO_CONNECTION', error.cause?.code ?? error.name), again: true }
    }
    const asked = { method: 'POST', path: url.pathname, key_prefix: this.#keyPrefix, ...sent }
    const checked = await checkAnswer(asked, answer, this.#keys, this.#clock())
    if (checked.result === 'BELIEVED') return checked
    return checked.result === 'NO_VERDICT' ? refusal(answer) : missed('UNSIGNED', checked.result)
  }

  // -------------------------------------------------------------------------------------------- results
  /** Where the server says, else the portal, if a seat is what is missing. */
  #helpIn({ help_url: given, code }) {
    if (typeof given === 'string' && /^https?:\/\/[^\s\x00-\x1f]+$/.test(given)) return given
    return code === 'TOO_MANY_MACHINES' ? this.portalUrl : null
  }

  #refused(heard) {
    const { code, detail, license } = heard.verdict
    let message = REASONS[code] ?? `The license server refused: ${detail ?? code}.`
    if (code === 'TOO_MANY_MACHINES' && license?.devices_used >= license?.max_devices) {
      const taken = `${license.devices_used} of ${license.max_devices}`
      message = `All seats of this license are taken (${taken}). Release a computer that you no longer use.`
    }
    return { ...this.#told(heard, noVerdict(code)), state: 'denied', message }
  }

  #told({ verdict, clockOff }, result) {
    const { license } = verdict
    return {
      ...result,
      source: 'online',
      detail: String(verdict.detail ?? verdict.code),
      licenseId: license?.id ?? null,
      productName: license?.product_name ?? null,
      tier: license?.tier ?? null,
      features: license?.features ?? [],
      expiry: license?.expiry_date ?? null,
      seatsUsed: license?.devices_used ?? null,
      maxSeats: license?.max_devices ?? null,
      activated: verdict.activated === true,
      clockOff,
      helpUrl: this.#helpIn(verdict),
    }
  }
}

function missed(code, detail, retryAfter = null) {
  return { code, detail, retryAfter, again: false }
}

/** Neither yes nor no; or nothing was entered yet. */
function noVerdict(code, why = null) {
  return {
    valid: false,
    state: code === 'UNLICENSED' ? 'unlicensed' : 'unreachable',
    code,
    detail: why?.detail ?? code,
    message: REASONS[code] ?? code,
    source: 'offline',
    licenseId: null,
    productName: null,
    tier: null,
    features: [],
    expiry: null,
    graceEnd: null,
    seatsUsed: null,
    maxSeats: null,
    activated: false,
    clockOff: code === 'CLOCK_BACK' || code === 'NOT_YET',
    retryAfter: why?.retryAfter ?? null,
    helpUrl: null,
  }
}

function filed(says, why, isGrace, clockOff) {
  const { license, product, tier, features, expires } = says
  const until = isGrace && expires ? ` Without the license server the program works until ${expires.slice(0, 10)}.` : ''
  return {
    ...noVerdict('VALID', why),
    valid: true,
    state: isGrace ? 'grace' : 'valid',
    message: REASONS.VALID + until,
    licenseId: license.id,
    productName: product.name ?? null,
    tier: tier ?? null,
    features,
    expiry: license.expiry_date ?? null,
    graceEnd: expires,
    maxSeats: license.max_devices ?? null,
    clockOff,
  }
}

// ------------------------------------------------------------------------------------------------ the way out

async function send(fetch, url, body, signal) {
  const headers = {
    'Content-Type': 'application/json',
    Accept: 'application/json',
    'Accept-Encoding': 'identity',
    'User-Agent': `keyledger-client-js/${VERSION}`,
  }
  // A redirect is not followed: the sign-in page of somebody's network is no answer.
  const response = await fetch(url.href, {
    method: 'POST',
    headers,
    body,
    redirect: 'manual',
    cache: 'no-store',
    signal,
  })
  const pieces = []
  let size = 0
  for await (const piece of response.body ?? []) {
    size += piece.length
    if (size > MOST_BYTES) throw new RangeError('the answer is too long') // leaving the loop ends the transfer
    pieces.push(piece)
  }
  return { status: response.status, headers: [...response.headers], body: Buffer.concat(pieces) }
}

/** 429 and 5xx pass by; another error is one of the app, or of what answered in the server's place. */
function refusal({ status, headers }) {
  const again = status === 429 || status >= 500
  const told = headers.find(([name]) => name.toLowerCase() === 'retry-after')?.[1]
  return { ...missed('NO_VERDICT', `status ${status}`, again && told ? pauseIn(told) : null), again }
}

/** Seconds, or a date. Nobody signed it, so it is believed for an hour at most. */
function pauseIn(told) {
  const seconds = /^[0-9]{1,9}$/.test(told.trim()) ? Number(told) : (Date.parse(told) - Date.now()) / SECOND
  return Number.isFinite(seconds) ? Math.min(Math.max(0, Math.round(seconds)), LONGEST_PAUSE / SECOND) : null
}

// ------------------------------------------------------------------------------------------------ small things

function serverBase(server) {
  let url
  try {
    url = new URL(server)
  } catch {
    throw new TypeError('server: is not an address, as https://licenses.example.com')
  }
  const isLoopback = /^(localhost|127(\.\d+){3}|\[::1\])$/.test(url.hostname)
  if (url.protocol !== 'https:' && !(url.protocol === 'http:' && isLoopback)) {
    throw new TypeError('server: must begin with https://')
  }
  if (url.username || url.password || url.search || url.hash)
    throw new TypeError('server: has a name, a query or a mark in it')
  return url.href.replace(/\/+$/, '')
}

function keyTable(given) {
  const keys = [given ?? []].flat()
  if (!keys.length) throw new TypeError('publicKey: is missing')
  return new Map(keys.map(publicKeyOf).map((key) => [sha256(key).toString('hex').slice(0, 16), key]))
}

function publicKeyOf(text) {
  const raw = fromBase64(String(text).replace(/-----[A-Z ]+-----|\s/g, ''))
  if (raw?.length === 32) return raw
  if (raw?.length === 44 && raw.subarray(0, 12).equals(SPKI)) return raw.subarray(12)
  throw new TypeError('publicKey: is not the base64 or the PEM of an Ed25519 key')
}

/** Without control characters and halves of letters, and no longer than the server takes it. */
function tidyName(name) {
  const letters = [
    ...Buffer.from(String(name))
      .toString()
      .replace(/[\x00-\x1f\x7f]/g, ''),
  ]
  return letters.slice(0, 128).join('')
}

function requireText(name, value, most = Infinity) {
  if (typeof value !== 'string' || !value || value.length > most) throw new TypeError(`${name}: is missing or too long`)
  return value
}

function requireDuration(name, value) {
  if (!Number.isFinite(value) || value <= 0) throw new TypeError(`${name}: must be milliseconds`)
  return value
}

function sha256(data) {
  return createHash('sha256').update(data).digest()
}

/** Null for what is not base64 exactly as it is written: with its padding, and no loose bits. */
function fromBase64(text) {
  if (typeof text !== 'string') return null
  const raw = Buffer.from(text, 'base64')
  return text && raw.toString('base64') === text ? raw : null
}

function jsonIn(bytes) {
  try {
    return JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes))
  } catch {
    return null
  }
}

function isObject(value) {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

function isTexts(value) {
  return Array.isArray(value) && value.every((text) => typeof text === 'string')
}

function isTime(value) {
  return typeof value === 'string' && TIME.test(value) && !Number.isNaN(Date.parse(value))
}

function pause(milliseconds) {
  return new Promise((resolve) => setTimeout(resolve, milliseconds))
}
