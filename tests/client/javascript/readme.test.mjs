// The examples of README.md, as they stand there, with a stand-in of Electron that does what they ask of it.

import assert from 'node:assert/strict'
import { promises as fs } from 'node:fs'
import path from 'node:path'
import { test } from 'node:test'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { thisSystem } from '../../../client/javascript/keyledger-client.mjs'
import { KEY, OTHER_KEY, OURS, StandIn, answer, clientOf, folder } from './standin.mjs'

const KIT = fileURLToPath(new URL('../../../client/javascript/', import.meta.url))
const ELECTRON = `
const on = {}
export const app = { whenReady: async () => {}, getPath: (name) => globalThis.stage.folder + '/' + name }
export const net = { fetch: (...given) => globalThis.stage.fetch(...given) }
export const ipcMain = { handle: (channel, listener) => (globalThis.stage.handlers[channel] = listener) }
export class BrowserWindow {
  constructor(options) {
    Object.assign(globalThis.stage, options.webPreferences)
    this.webContents = { setWindowOpenHandler: (handler) => (on.open = handler), on: (name, handler) => (on[name] = handler) }
  }
  async loadFile(page) {
    Object.assign(globalThis.stage, { page, on })
  }
}
`

async function staged(server) {
  const blocks = [...(await fs.readFile(path.join(KIT, 'README.md'), 'utf8')).matchAll(/^```js\n(.*?)^```/gms)]
  const [, main, preload] = blocks.map(([, text]) => text)
  const here = await folder()
  const ours = (text) =>
    text.replace('https://licenses.example.com', server.url).replace('MCowBQYDK2VwAyEA…', OURS.publicKey)
  const product = (text) => text.replace("'imagewave'", "'wave'")
  await fs.mkdir(path.join(here, 'node_modules/electron'), { recursive: true })
  await fs.writeFile(path.join(here, 'node_modules/electron/index.mjs'), ELECTRON)
  await fs.writeFile(path.join(here, 'node_modules/electron/package.json'), '{"exports": "./index.mjs"}')
  await fs.copyFile(path.join(KIT, 'keyledger-client.mjs'), path.join(here, 'keyledger-client.mjs'))
  await fs.writeFile(
    path.join(here, 'main.mjs'),
    product(ours(main)).replaceAll('import.meta.dirname', JSON.stringify(here)),
  )
  globalThis.stage = { folder: here, handlers: {}, fetch: globalThis.fetch }
  await import(pathToFileURL(path.join(here, 'main.mjs')).href)
  return { ...globalThis.stage, bridge: bridgeOf(preload, globalThis.stage) }
}

/** What the preload script gives to the page; the page's calls go to the main process with the page's address. */
function bridgeOf(preload, stage) {
  const given = {}
  const electron = {
    contextBridge: { exposeInMainWorld: (name, api) => (given[name] = api) },
    ipcRenderer: {
      invoke: async (channel, ...rest) =>
        stage.handlers[channel]({ senderFrame: { url: stage.from } }, ...structuredClone(rest)),
    },
  }
  new Function('require', preload)((name) => ({ electron })[name])
  return given
}

test('the example for Electron', async () => {
  const server = await new StandIn().start()
  try {
    const stage = await staged(server)
    assert.deepEqual([stage.contextIsolation, stage.sandbox, stage.nodeIntegration], [true, true, false])
    assert.equal(path.basename(stage.preload), 'preload.cjs')
    const { license, ...more } = stage.bridge
    assert.deepEqual([more, Object.keys(license).length], [{}, 5])

    globalThis.stage.from = pathToFileURL(stage.page).href
    assert.equal((await license.validate()).state, 'unlicensed')
    assert.match(await license.deviceCode(), /^-----BEGIN DEVICE CODE-----\n/)
    server.clock = Date.now()
    const result = await license.activate(KEY)
    assert.deepEqual([result.state, structuredClone(result)], ['valid', result]) // it goes through Electron's copying
    assert.equal((await license.installFile('nonsense')).code, 'UNREADABLE')
    assert.equal((await license.deactivate()).code, 'DEACTIVATED')

    for (const from of ['https://example.com/', 'file:///etc/passwd', undefined]) {
      globalThis.stage.from = from
      await assert.rejects(license.validate(), /not our page/)
    }
    const frame = { url: pathToFileURL(stage.page).href }
    assert.throws(() => stage.handlers['license:activate']({ senderFrame: frame }, { a: 1 }), TypeError)
    assert.throws(() => stage.handlers['license:validate']({ senderFrame: null }), /not our page/)
    assert.deepEqual(stage.on.open({ url: 'https://example.com' }), { action: 'deny' })
  } finally {
    await server.stop()
  }
})

/** The first example as an app of its own; `askedWith` says what it showed when it asked for a key. */
async function started(server, stateDir) {
  const [first] = [...(await fs.readFile(path.join(KIT, 'README.md'), 'utf8')).matchAll(/^```js\n(.*?)^```/gms)]
  const text = first[1]
    .replace('./keyledger-client.mjs', pathToFileURL(path.join(KIT, 'keyledger-client.mjs')).href)
    .replace('https://licenses.example.com', server.url)
    .replace('MCowBQYDK2VwAyEA…', OURS.publicKey)
    .replace("'imagewave'", "'wave'")
    .replace('/home/ann/.config/imagewave', stateDir)
  const app = path.join(await folder(), 'app.mjs')
  const around = [
    'const told = (globalThis.told = {})',
    `const askForKey = async (message) => ((told.askedWith = message), '${KEY}')`,
    'const start = (features) => (told.features = features)',
    'const show = (...given) => (told.shown = given)',
  ]
  await fs.writeFile(app, `${around.join('\n')}\n${text}`)
  await import(pathToFileURL(app).href)
  return globalThis.told
}

test('the example for Node', async () => {
  const server = await new StandIn().start()
  server.clock = Date.now()
  try {
    const told = await started(server, await folder())
    assert.deepEqual(told, { askedWith: 'Please enter your license key.', features: ['batch'] })
    assert.deepEqual(server.asked, ['file'])
  } finally {
    await server.stop()
  }
})

test('the example takes a new key when the old one was replaced', async () => {
  const server = await new StandIn().start()
  server.clock = Date.now()
  try {
    const { client, stateDir } = await clientOf(server, { clock: Date.now, system: thisSystem })
    assert.equal((await client.activate(OTHER_KEY)).valid, true)
    server.code = 'BANNED'
    server.instead = [
      (_, response, signed) => {
        server.code = 'VALID'
        answer(response, signed)
      },
    ]
    const told = await started(server, stateDir)
    const askedWith = 'This license was revoked, or replaced by a new key.'
    assert.deepEqual(told, { askedWith, features: ['batch'] })
    assert.deepEqual(server.asked, ['file', 'validate', 'file'])
  } finally {
    await server.stop()
  }
})
