# Installs the library into a folder of its own, builds examples/embed against it as a stranger would, and
# runs that. Variables: BUILD, SOURCE, CXX, FLAGS.
set(folder "${BUILD}/tests/install_test")
file(REMOVE_RECURSE "${folder}")
function(run)
  execute_process(COMMAND ${ARGV} COMMAND_ERROR_IS_FATAL ANY OUTPUT_VARIABLE output)
  set(output "${output}" PARENT_SCOPE)
endfunction()
run(${CMAKE_COMMAND} --install "${BUILD}" --prefix "${folder}/installed")
run(${CMAKE_COMMAND} -S "${SOURCE}/examples/embed" -B "${folder}/build" "-DCMAKE_CXX_COMPILER=${CXX}"
    "-DCMAKE_CXX_FLAGS=${FLAGS}" "-DCMAKE_PREFIX_PATH=${folder}/installed")
run(${CMAKE_COMMAND} --build "${folder}/build")
run("${folder}/build/embed" "${SOURCE}/models/stories/stories.safetensors" "Once upon a time")
if(NOT output MATCHES "Once upon a time.*100 tokens, ended: length")
  message(FATAL_ERROR "unexpected output: ${output}")
endif()
file(REMOVE_RECURSE "${folder}")
